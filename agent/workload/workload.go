// Package workload turns a calling process into the selectors it attests to.
// Each attestor looks at the process from one side; all that apply run side by
// side and their selectors merge.
package workload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/identity"
)

// Attestor looks at a process and says what it sees. A process it has nothing
// to say about gives no selectors and no error.
type Attestor interface {
	Attest(ctx context.Context, caller *peer.Caller) ([]identity.Selector, error)
}

// Frugal is an Attestor with selectors that cost much to find out. It leaves
// them out while asks says, of "type:key", that no entry uses them. OnlyFor is
// called before the first Attest.
type Frugal interface {
	Attestor
	OnlyFor(asks func(typeAndKey string) bool)
}

// Attestors are the attestors of one agent by the selector type each speaks
// for.
type Attestors map[string]Attestor

// Attestation is what all attestors together saw of one process.
type Attestation struct {
	Selectors identity.Selectors
	Evidence  string // SHA-256 over caller and selectors, lower-case hex
}

// OnlyFor tells the frugal ones which selectors are used.
func (a Attestors) OnlyFor(asks func(typeAndKey string) bool) {
	for _, attestor := range a {
		if frugal, ok := attestor.(Frugal); ok {
			frugal.OnlyFor(asks)
		}
	}
}

// timeout bounds one attestation.
const timeout = 10 * time.Second

// Attest asks every attestor about the caller. It denies (identity.Denied) when
// the caller is not the same before and after, and when any attestor errs: what
// the others saw would be a part of the truth, and a selector that is missing
// must never be the reason that a process looks like another.
func (a Attestors) Attest(ctx context.Context, caller *peer.Caller) (Attestation, error) {
	if err := caller.Same(); err != nil {
		return Attestation{}, err
	}
	list, err := a.ask(ctx, caller)
	if err != nil {
		e := identity.Errorf(identity.Denied, "process %d could not be attested; the agent's log has the cause", caller.PID)
		e.Err = err
		return Attestation{}, e
	}
	if err := caller.Same(); err != nil {
		return Attestation{}, err
	}
	set := identity.NewSelectors(list...)
	return Attestation{Selectors: set, Evidence: evidence(caller, set)}, nil
}

func (a Attestors) ask(ctx context.Context, caller *peer.Caller) ([]identity.Selector, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answers := make([][]identity.Selector, len(a))
	group, ctx := errgroup.WithContext(ctx)
	i := 0
	for name, attestor := range a {
		answer := &answers[i]
		i++
		group.Go(func() (err error) {
			*answer, err = askOne(ctx, name, attestor, caller)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(answers...), nil
}

// askOne also holds an attestor to its own selector type.
func askOne(ctx context.Context, name string, attestor Attestor, caller *peer.Caller) ([]identity.Selector, error) {
	list, err := attestor.Attest(ctx, caller)
	if err != nil {
		return nil, fmt.Errorf("attestor %s: %w", name, err)
	}
	for _, s := range list {
		if s.Type != name {
			return nil, fmt.Errorf("attestor %s gave a selector of type %q", name, identity.Clip(s.Type))
		}
	}
	return list, nil
}

func evidence(caller *peer.Caller, set identity.Selectors) string {
	dev, ino := caller.Executable()
	h := sha256.New()
	fmt.Fprintf(h, "pid %d start %d pidns %d exe %d:%d uid %d gid %d\n%s\x00", caller.PID, caller.StartTime(),
		caller.PIDNamespace(), dev, ino, caller.UID, caller.GID, caller.Cgroup())
	for _, s := range set {
		fmt.Fprintf(h, "%s\x00", s)
	}
	return hex.EncodeToString(h.Sum(nil))
}
