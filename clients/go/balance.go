package sallyport

import (
	"fmt"

	"google.golang.org/grpc/balancer/leastrequest"
	"google.golang.org/grpc/balancer/roundrobin"
)

// Balance says which of several servers gets the next call. It is asked when a
// call begins, so a stream stays where it was opened.
type Balance int

const (
	// RoundRobin takes one after the other.
	RoundRobin Balance = iota
	// LeastRequest takes two at random and of them the one with fewer calls of this
	// client under way, streams among them. A server that is slow gets fewer; one
	// that fails fast does not get all.
	LeastRequest
)

// String is the name of gRPC's policy.
func (b Balance) String() string {
	switch b {
	case RoundRobin:
		return roundrobin.Name
	case LeastRequest:
		return leastrequest.Name
	}
	return fmt.Sprintf("Balance(%d)", int(b))
}

// validate refuses what is none of the constants.
func (b Balance) validate() error {
	if b != RoundRobin && b != LeastRequest {
		return fmt.Errorf("balance: there is no %v", b)
	}
	return nil
}

// serviceConfig is what gRPC is told.
func (b Balance) serviceConfig() string { return fmt.Sprintf(`{"loadBalancingConfig":[{"%v":{}}]}`, b) }
