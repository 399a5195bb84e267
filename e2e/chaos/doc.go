// Package chaos runs a real `icp dev` under load, or server, agent and proxy as
// processes of their own, kills them with SIGKILL at moments that a seed
// chooses, starts them again on the same folder, and judges what was seen from
// outside. Between the kills the links between the programs may have faults: cut,
// silent, late or slow for some time.
//
// Everything that is asked of it through its public doors, and everything that
// its workloads are served, becomes an Event of a History: REST calls of
// administrators, join tokens that several nodes spend at once, Workload API
// streams and JWT-SVIDs of several users, requests through the proxy. After the
// run the server's own issuance record is read from its database file. Checks
// are plain functions over these two; each knows one promise and shows where it
// was broken.
//
// While a part is cut off from the server it may know nothing new. What it must
// know counts from the end of the fault, as it does from a start. No fault excuses
// what does not depend on news: an identity that was never its user's, a serial
// used twice, a token spent twice, an SVID that nobody recorded, that was signed
// after its entry was deleted, or that had expired when it was served.
//
// The seed fixes what is asked, when to kill and what fails; how the operating
// system interleaves it stays open, so a repeated seed repeats the plan and not
// each step.
package chaos
