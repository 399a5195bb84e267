// Package python runs the Python SDK as a workload of a whole `icp dev`: the
// programs in testdata use it, and what they reach, or who reaches them, is
// looked at from outside.
package python
