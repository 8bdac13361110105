"""Other libraries: what natsel knows of each is in one folder, imported only when it is used."""
