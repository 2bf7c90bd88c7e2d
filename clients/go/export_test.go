package sallyport

// Generations is how many generations of connections are open.
func Generations(c *Client) int { return len(c.conns.generations()) }

// Retriable tells whether a call is made again.
var Retriable = retriable
