"""A saved world as one page to look at: plan, sections, camera path, entities and numbers."""

from mirage_jax.evaluation.world_page.numbers import world_numbers
from mirage_jax.evaluation.world_page.page import WORLD_PAGE, world_page

__all__ = ["WORLD_PAGE", "world_numbers", "world_page"]
