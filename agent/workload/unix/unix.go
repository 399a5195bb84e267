// Package unix attests a process by what every Unix knows of it:
//
//	unix:uid:1000      effective user id, in the agent's user namespace
//	unix:gid:1000      effective group id
//	unix:user:alice    name of that user in the agent's user database
//	unix:group:staff   name of that group
//	unix:path:/usr/bin/app   where its program is found
//	unix:sha256:…      digest of the program that runs, lower-case hex
//
// A script's program is its interpreter.
package unix

import (
	"context"
	"os/user"
	"strconv"

	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/identity"
)

// Type is the selector type of this attestor.
const Type = "unix"

// Attestor is the unix attestor. Make it with New.
type Attestor struct {
	asks    func(typeAndKey string) bool
	digests digests
}

// New makes the attestor.
func New() *Attestor {
	return &Attestor{
		asks:    func(string) bool { return true },
		digests: digests{known: map[inode]string{}},
	}
}

// OnlyFor has programs hashed only while asks says so of unix:sha256.
func (a *Attestor) OnlyFor(asks func(typeAndKey string) bool) { a.asks = asks }

// Attest gives the unix selectors of the caller. User and group without a name
// here, and a program whose place can't be vouched for, leave that selector
// out.
func (a *Attestor) Attest(ctx context.Context, caller *peer.Caller) ([]identity.Selector, error) {
	uid, gid := strconv.FormatUint(uint64(caller.UID), 10), strconv.FormatUint(uint64(caller.GID), 10)
	list := []identity.Selector{selector("uid", uid), selector("gid", gid)}
	if u, err := user.LookupId(uid); err == nil {
		list = add(list, "user", u.Username)
	}
	if g, err := user.LookupGroupId(gid); err == nil {
		list = add(list, "group", g.Name)
	}
	path, err := programPath(caller)
	if err != nil {
		return nil, err
	}
	list = add(list, "path", path)
	if !a.asks(Type + ":sha256") {
		return list, nil
	}
	digest, err := a.digests.of(ctx, caller)
	if err != nil {
		return nil, err
	}
	return add(list, "sha256", digest), nil
}

func selector(key, value string) identity.Selector {
	return identity.Selector{Type: Type, Value: key + ":" + value}
}

// add leaves out what can't be a selector: an entry could not be written for it.
func add(list []identity.Selector, key, value string) []identity.Selector {
	if value == "" {
		return list
	}
	parsed, err := identity.ParseSelector(selector(key, value).String())
	if err != nil || parsed != selector(key, value) {
		return list
	}
	return append(list, parsed)
}
