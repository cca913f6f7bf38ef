"""Synthetic worms: seeded volumes of crowded nuclei with true labels and centres, of any size."""

from nucseg.synthetic.plan import Plan, plan_worm
from nucseg.synthetic.render import render_block
from nucseg.synthetic.synthesize import synthesize

__all__ = ["Plan", "plan_worm", "render_block", "synthesize"]
