"""The panel's sections, one a file: each shows what it is given and changes only its own nodes."""
