// Package project holds the tests of rules that bind the whole tree: every
// package says what it is, no program links what it must not, and every command
// that the documents show is one that a test runs.
package project
