"""Adam and its learning rate over the course of a training run."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    import keras


class Optimizer(BaseModel):
    """Adam with Keras' betas; the learning rate rises linearly, then stays or falls along a cosine to 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(2e-3, gt=0)
    """The highest learning rate."""
    warmup: int = Field(50, ge=0)
    """Iterations until it is reached."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What it does afterwards: `cosine` ends at zero with the last iteration."""
    clipnorm: float | None = Field(1.0, gt=0)
    """Longest gradient, as the norm over all weights together; None (in a TOML `false`): not clipped, as published."""

    @field_validator("clipnorm", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value is False else value

    def build(self, iterations: int) -> "keras.optimizers.Optimizer":
        """The Keras optimiser.

        Args:
            iterations: Length of the whole run, at whose end the cosine reaches zero.
        """
        import keras

        schedules = keras.optimizers.schedules
        rate: Any = self.learning_rate
        if self.schedule == "cosine":
            rate = schedules.CosineDecay(
                initial_learning_rate=0.0 if self.warmup else self.learning_rate,
                decay_steps=max(iterations - self.warmup, 1),
                warmup_target=self.learning_rate if self.warmup else None,
                warmup_steps=self.warmup,
            )
        elif self.warmup:
            # Linear from 0 to the learning rate, where it stays.
            rate = schedules.PolynomialDecay(
                0.0, self.warmup, end_learning_rate=self.learning_rate, power=1.0
            )
        return keras.optimizers.Adam(rate, global_clipnorm=self.clipnorm)
