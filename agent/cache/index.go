package cache

import (
	"slices"

	"github.com/authsec-ai/icp/identity"
)

// index finds the entries that a set of selectors matches without looking at
// the others: each entry is filed under one of its selectors, the one that the
// fewest others are filed under.
type index map[identity.Selector][]*entry

// add files e. An entry without selectors matches nothing and is not filed.
func (x index) add(e *entry) {
	if len(e.Selectors) == 0 {
		return
	}
	e.filed = slices.MinFunc(e.Selectors, func(a, b identity.Selector) int { return len(x[a]) - len(x[b]) })
	x[e.filed] = append(x[e.filed], e)
}

// remove takes e out again.
func (x index) remove(e *entry) {
	list := x[e.filed]
	i := slices.Index(list, e)
	if i < 0 {
		return
	}
	last := len(list) - 1
	list[i], list[last] = list[last], nil
	if last == 0 {
		delete(x, e.filed)
		return
	}
	x[e.filed] = list[:last]
}

// match gives the entries whose selectors are all in the set, oldest first.
func (x index) match(set identity.Selectors) []*entry {
	var matched []*entry
	for _, s := range set {
		for _, e := range x[s] {
			if set.Contains(e.Selectors) {
				matched = append(matched, e)
			}
		}
	}
	slices.SortFunc(matched, func(a, b *entry) int {
		if a.Before(b.Entry) {
			return -1
		}
		return 1
	})
	return matched
}
