// Package identity holds the words that every part of ICP shares: SPIFFE IDs,
// selectors, registration entries, nodes and error codes.
//
// Text is parsed once, here, into types that are valid by construction; the
// rest of the code trusts the type. Nothing in this package does I/O.
package identity
