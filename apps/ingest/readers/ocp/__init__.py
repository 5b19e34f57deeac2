"""OC20 and OC22 as their publishers ship them."""
