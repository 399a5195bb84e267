// Package readme runs what the documents tell their readers to type.
//
// In README.md every block marked "sh" or "python" is run, in a folder of the
// test's own; in the other documents those marked "sh run". Commands named in
// the text must exist, as must make targets.
package readme
