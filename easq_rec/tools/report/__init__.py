"""`easq-rec report`: runs and studies as one HTML page that needs nothing besides itself."""
