"""The leaf layer: errors, enums, atomic files. Imports nothing else of this project, and everything may import it."""
