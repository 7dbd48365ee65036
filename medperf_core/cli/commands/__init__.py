"""The commands, one file per noun; imported when used."""
