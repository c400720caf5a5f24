"""What one does with a model besides training it."""

from diffalign.backbones import replace_folder
from diffalign.pipelines.best_of_n import Best, BestOf, best_of_n
from diffalign.pipelines.drawings import DrawingModel, Drawn, draw_models, draw_pictures
from diffalign.pipelines.generate import ImageGenerator
from diffalign.pipelines.pictures import contact_sheet, save_picture, to_picture
from diffalign.pipelines.shapes import as_pictures, is_grid

__all__ = [
    "Best",
    "BestOf",
    "DrawingModel",
    "Drawn",
    "ImageGenerator",
    "as_pictures",
    "best_of_n",
    "contact_sheet",
    "draw_models",
    "draw_pictures",
    "is_grid",
    "replace_folder",
    "save_picture",
    "to_picture",
]
