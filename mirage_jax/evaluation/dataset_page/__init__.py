"""A recorded dataset as one page to look at: clips, numbers, paths from above, warp checks."""

from mirage_jax.evaluation.dataset_page.page import DATASET_PAGE, dataset_page

__all__ = ["DATASET_PAGE", "dataset_page"]
