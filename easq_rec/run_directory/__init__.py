"""Names and formats of the files in a run directory, and `easq-rec runs`. Loads without torch."""
