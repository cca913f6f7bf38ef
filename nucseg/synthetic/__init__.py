"""Synthetic worms: seeded volumes of crowded nuclei with true labels and centres, of any size."""

from nucseg.synthetic.plan import Plan, check_worm, plan_worm
from nucseg.synthetic.render import render_block
from nucseg.synthetic.synthesize import synthesize

__all__ = ["Plan", "check_worm", "plan_worm", "render_block", "synthesize"]
