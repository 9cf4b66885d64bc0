"""How a run ended: its figures, and the pages that show them."""
