"""A finished folder on a model hub: its files, its model card, the hubs' own packages, the listing after."""
