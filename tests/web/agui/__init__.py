"""AG-UI over HTTP with real sockets: the requests and events of a stock client."""
