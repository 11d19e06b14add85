"""`easq-rec runs`: what run directories hold and how each run stands, without loading torch."""
