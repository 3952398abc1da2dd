"""The HTTP server of a node: routes, middleware, metrics, the process."""
