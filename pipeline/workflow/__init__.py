"""The workflow file: schema, defaults, errors with file and line."""
