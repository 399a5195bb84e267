package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
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

// loadSnapshot reads the cache; an absent one gives nil. What it says is in
// force for a while, so one that others could have written is refused.
func loadSnapshot(path string) (*snapshot, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := checkOwn(file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	raw, err := io.ReadAll(io.LimitReader(file, 2*maxSetBytes))
	if err != nil {
		return nil, err
	}
	var s snapshot
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &s, nil
}

// checkOwn wants a regular file that nobody but this user or root could write.
func checkOwn(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	case !ok || stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return errors.New("it belongs to another user; remove it")
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others can write it (mode %04o); remove it", info.Mode().Perm())
	}
	return nil
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
// file or the new one; what it leaves beside them goes with the next save.
func (s *snapshot) save(path string) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	beside := path + ".new"
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
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
