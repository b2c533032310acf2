"""How good are the images: features, Fréchet distance and its companions, reports and grids.

Modules: `classifier` (features for digits), `features` (extractors), `fid` (metrics on features),
`generate` (one seed per image), `report` (three seed ranges, tables, JSON), `grids` (PNG). Nothing here knows
how the generator was trained.
"""
