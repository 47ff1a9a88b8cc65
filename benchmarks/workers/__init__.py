"""One process per contestant; they import nothing of rlalign but what they measure."""
