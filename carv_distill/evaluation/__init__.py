"""How good are the images: features, Fréchet distance and its companions, reports, for any generator."""
