// Package source keeps a policy engine current: File follows a file on disk,
// Server follows the control plane.
//
// Both fail towards less access. A set that can't be used is logged and
// counted, and the one before it stays in force; a Server that has lost the
// control plane for longer than its lease makes the sink deny everything.
package source

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/policy"
)

// maxSetBytes bounds a set in a file, in a frame and in the cache.
const maxSetBytes = wire.MaxPolicyFrameBytes

// Sink takes what a source delivers. A source calls it from one goroutine at a
// time.
type Sink interface {
	// ApplyPolicies puts a complete set in force, or refuses it and keeps the
	// one that is.
	ApplyPolicies(policy.Set) error
	// ApplyRevocations replaces what is revoked.
	ApplyRevocations([]identity.Revocation) error
}

// Expirer is a Sink that can deny everything until the next ApplyPolicies. A
// Sink that is none gets an empty set instead.
type Expirer interface {
	ExpirePolicies()
}

// State is how a source is doing.
type State struct {
	Loaded   bool      // a set has been applied
	Stale    bool      // it came from the cache, and the server has not been reached since
	Expired  bool      // it is denied because the lease ran out
	Epoch    string    // of the set
	Revision int64     // of the set
	Contact  time.Time // last sign of life from where sets come from
	Problem  string    // what failed last, "" once it works again
	Failures int64     // how often something failed since the start
}

// Check gives why the state can't serve decisions, nil if it can.
func (s State) Check(context.Context) error {
	switch {
	case s.Expired:
		return errors.New("the policies are out of date: " + s.Problem)
	case !s.Loaded && s.Problem != "":
		return errors.New("no policies yet: " + s.Problem)
	case !s.Loaded:
		return errors.New("no policies yet")
	}
	return nil
}

// status is a State that is written by a source and read by others.
type status struct {
	mu    sync.Mutex
	state State
	log   *slog.Logger
}

// State gives a copy.
func (s *status) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *status) update(change func(*State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

// fail counts a failure, and logs it unless it is the one that is known.
func (s *status) fail(what string, err error) {
	problem := what + ": " + err.Error()
	known := false
	s.update(func(st *State) {
		known = st.Problem == problem
		st.Problem = problem
		st.Failures++
	})
	if !known {
		s.log.Error(what, "error", err, "kept", s.State().Loaded)
	}
}

// apply hands a set to sink.
func (s *status) apply(sink Sink, set policy.Set, now time.Time) error {
	if err := sink.ApplyPolicies(set); err != nil {
		return err
	}
	s.update(func(st *State) {
		*st = State{Loaded: true, Epoch: set.Epoch, Revision: set.Revision, Contact: now, Failures: st.Failures}
	})
	s.log.Info("policies in force", "epoch", set.Epoch, "revision", set.Revision, "policies", len(set.Policies))
	return nil
}
