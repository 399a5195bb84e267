// Package dev holds `icp dev` to what programs that use it rely on: dev.json,
// the line that says ready, what a restart keeps, and one clear line for each
// thing that can be in its way.
package dev
