"""Tiny random pipelines and modules around them."""

from tests.helpers.sds_modules import if_pipeline_folder, make_module, make_pixel_module, pipeline_folder

__all__ = ["if_pipeline_folder", "make_module", "make_pixel_module", "pipeline_folder"]
