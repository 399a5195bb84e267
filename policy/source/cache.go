package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

// snapshot is what a Server remembers across restarts.
type snapshot struct {
	URL         string                `json:"url"`     // of the server it is from
	Contact     time.Time             `json:"contact"` // last sign of life from that server
	Policies    json.RawMessage       `json:"policies"`
	Revocations []identity.Revocation `json:"revocations"`
}

// loadSnapshot reads the cache; an absent one gives nil.
func loadSnapshot(path string) (*snapshot, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s snapshot
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}

// set gives the policies, strictly parsed.
func (s *snapshot) set() (policy.Set, error) { return parseComplete(s.Policies) }

// parseComplete parses a set in which leaving the policies out means that there
// are none: the server always sends a complete set.
func parseComplete(raw []byte) (policy.Set, error) {
	set, err := policy.ParseSet(raw)
	if set.Policies == nil {
		set.Policies = []policy.Policy{}
	}
	return set, err
}

// save replaces the file at path, for its owner only. A crash leaves the old
// file or the new one.
func (s *snapshot) save(path string) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".policies-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already if all went well
	_, err = tmp.Write(raw)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
