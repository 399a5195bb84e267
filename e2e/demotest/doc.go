// Package demotest holds the demo to its word: it passes, it fails where it is
// told to, and it cleans up after itself.
package demotest
