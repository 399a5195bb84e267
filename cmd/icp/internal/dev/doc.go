// Package dev is `icp dev`: server, agent, proxy and a sample upstream in one
// process on loopback, for the first five minutes.
package dev
