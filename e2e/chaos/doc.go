// Package chaos runs a real `icp dev` under load, or server, agent and proxy as
// processes of their own, kills them with SIGKILL at moments that a seed
// chooses, starts them again on the same folder, and judges what was seen from
// outside.
//
// Everything that is asked of it through its public doors, and everything that
// its workloads are served, becomes an Event of a History: REST calls of
// administrators, join tokens that several nodes spend at once, Workload API
// streams and JWT-SVIDs of several users, requests through the proxy. After the
// run the server's own issuance record is read from its database file. Checks
// are plain functions over these two; each knows one promise and shows where it
// was broken.
//
// The seed fixes what is asked and when to kill; how the operating system
// interleaves it stays open, so a repeated seed repeats the plan and not each
// step.
package chaos
