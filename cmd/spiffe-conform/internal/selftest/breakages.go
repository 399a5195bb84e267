package selftest

import "slices"

// breakages lists at least one for each row.
func breakages() []Breakage {
	return slices.Concat(x509Breakages(), jwtBreakages(), bundleBreakages(), endpointBreakages(), apiBreakages(), validateBreakages(), changeBreakages())
}
