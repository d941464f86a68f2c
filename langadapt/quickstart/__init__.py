"""The whole chain in minutes, on any machine: text from CLDR, a base model made on the spot, the stages as commands."""
