"""Says what clouds teach their model besides its weights."""

import dataclasses
from typing import ClassVar, Self

from ncgn_jax.point_clouds.sets import Frame, PointDataset
from ncgn_jax.tasks.classes import count_classes


@dataclasses.dataclass(frozen=True)
class CloudFacts:
    """What the training clouds taught a model.

    Attributes:
      scale: Their standard deviation, over all coordinates.
      class_names: Their classes.
      class_counts: Training clouds of each class.
      frame: How clouds were moved and scaled, so that samples come in the units of the
        file.
    """

    relied_on: ClassVar[tuple[str, ...]] = ("class_names",)

    scale: float
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    frame: Frame = Frame()

    def with_another_name(self) -> Self:
        """Returns facts with a name more, see `tasks.facts`."""
        return dataclasses.replace(
            self,
            class_names=(*self.class_names, "another"),
            class_counts=(*self.class_counts, 1),
        )


def learn_facts(dataset: PointDataset) -> CloudFacts:
    """Finds the facts of a data set."""
    return CloudFacts(
        float(dataset.scale),
        tuple(dataset.class_names),
        count_classes(dataset.train_labels, dataset.class_names),
        dataset.frame,
    )
