package policy

import (
	"encoding/json"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/document"
)

// ParseSet reads a Set that a person or the server wrote, in JSON or YAML,
// strictly (package document says how). The policies themselves are for Compile
// to check. A set that needs a newer engine is refused as such.
func ParseSet(raw []byte) (Set, error) {
	plain, err := document.ToJSON(raw)
	if err != nil {
		return Set{}, identity.Errorf(identity.Invalid, "policies: %s", err)
	}
	var newer struct {
		MinEngine int `json:"min_engine"`
	}
	if json.Unmarshal(plain, &newer) == nil && newer.MinEngine > EngineVersion {
		return Set{}, (&inForce{}).admits(Set{MinEngine: newer.MinEngine})
	}
	var set Set
	if err := document.Decode(plain, &set); err != nil {
		return Set{}, identity.Errorf(identity.Invalid, "policies: %s", err)
	}
	return set, nil
}
