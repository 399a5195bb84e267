package policy

import (
	"sync"
	"sync/atomic"

	"github.com/authsec-ai/icp/identity"
)

// Engine holds the set that is in force. Until one is loaded it denies
// everything. All methods may be called at the same time; Decide never waits.
type Engine struct {
	loading sync.Mutex // held by who replaces current
	current atomic.Pointer[inForce]
}

// inForce is a loaded set; it is replaced, never changed.
type inForce struct {
	compiled   *Compiled // nil while nothing was loaded
	epoch      string
	revision   int64
	generation uint64
	expired    bool
}

// NewEngine makes an Engine that denies everything.
func NewEngine() *Engine {
	e := &Engine{}
	e.current.Store(&inForce{})
	return e
}

// Load puts set in force. It refuses a set that needs a newer engine, holds an
// invalid policy, has no policies field, or is older than the one of the same
// epoch that was loaded last; the set in force then stays.
func (e *Engine) Load(set Set) error {
	e.loading.Lock()
	defer e.loading.Unlock()
	old := e.current.Load()
	if err := old.admits(set); err != nil {
		return err
	}
	compiled, err := Compile(set.Policies)
	if err != nil {
		return err
	}
	e.current.Store(&inForce{compiled: compiled, epoch: set.Epoch, revision: set.Revision, generation: old.generation + 1})
	return nil
}

func (f *inForce) admits(set Set) error {
	switch {
	case set.MinEngine > EngineVersion:
		return identity.Errorf(identity.Unsupported, "the policies need engine version %d, this is %d; upgrade this program", set.MinEngine, EngineVersion)
	case set.Policies == nil:
		return identity.Errorf(identity.Invalid, "the set has no policies field; write an empty list to deny everything")
	case f.compiled != nil && set.Epoch == f.epoch && set.Revision < f.revision:
		return identity.Errorf(identity.Conflict, "the policies are of revision %d, older than revision %d which is in force", set.Revision, f.revision)
	}
	return nil
}

// Expire makes the Engine deny everything until the next Load, because the set
// can no longer be trusted to be current. What was loaded still counts for
// refusing older sets.
func (e *Engine) Expire() {
	e.loading.Lock()
	defer e.loading.Unlock()
	expired := *e.current.Load()
	expired.expired = true
	expired.generation++
	e.current.Store(&expired)
}

// Decide says whether req is allowed by the set in force. It allocates nothing.
func (e *Engine) Decide(req Request) Decision {
	f := e.current.Load()
	switch {
	case f.compiled == nil:
		return Decision{Reason: ReasonNoSet}
	case f.expired:
		return Decision{Reason: ReasonExpired}
	}
	return f.compiled.Decide(req)
}

// MayAllow is Compiled.MayAllow on the set in force.
func (e *Engine) MayAllow(req Request) bool {
	f := e.current.Load()
	return !f.expired && f.compiled.MayAllow(req)
}

// AllowsModel is Compiled.AllowsModel on the set in force.
func (e *Engine) AllowsModel(req Request) bool {
	f := e.current.Load()
	return !f.expired && f.compiled.AllowsModel(req)
}

// Generation changes whenever decisions may have: a decision made under an
// earlier one has to be made again.
func (e *Engine) Generation() uint64 { return e.current.Load().generation }

// Revision gives epoch and revision of the set that was loaded last.
func (e *Engine) Revision() (epoch string, revision int64) {
	f := e.current.Load()
	return f.epoch, f.revision
}
