package chaos

import (
	"context"
	"math/rand/v2"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/icpdev"
	"github.com/authsec-ai/icp/e2e/stage/fault"
)

// whole is `icp dev`: one process.
type whole struct {
	binary   string // of icp
	dir      string
	instance *icpdev.Instance // nil while it is down
}

func (w *whole) start(ctx context.Context) (icpdev.Info, error) {
	instance, err := icpdev.Start(ctx, icpdev.Options{Binary: w.binary, Dir: w.dir})
	if err != nil {
		return icpdev.Info{}, err
	}
	w.instance = instance
	return instance.Info, nil
}

func (w *whole) kill(*rand.Rand) string {
	w.end()
	return "icp dev"
}

func (w *whole) end() {
	if w.instance != nil {
		w.instance.Kill()
	}
	w.instance = nil
}

func (w *whole) stop() error {
	err := w.instance.Stop()
	w.instance = nil
	return err
}

func (w *whole) ended() <-chan struct{} { return w.instance.Done() }

func (w *whole) failure() string {
	select {
	case <-w.instance.Done():
		return "icp dev: " + w.instance.Tail()
	default:
		return ""
	}
}

func (w *whole) record(ctx context.Context, tenant string) (Record, error) {
	return ReadRecord(ctx, filepath.Join(w.dir, "icp.db"), tenant)
}

// links: what the parts say to each other stays inside.
func (w *whole) links() map[Link]*fault.Proxy { return nil }
