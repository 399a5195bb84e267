package policy

import "strings"

// index finds what was stored under the patterns that match a key. A pattern is
// exact or ends in "/**"; see Policy. Looking up allocates nothing and costs
// one map access for the exact pattern and one per segment of the key that
// some "/**" pattern shares.
type index[V any] struct {
	exact map[string]*V
	below node[V]
}

// node is a place in the tree of "/**" patterns, one level per segment.
type node[V any] struct {
	value    *V // of the pattern that ends here, nil if none does
	children map[string]*node[V]
}

// slot gives the place for pattern's value, making it if it is new.
func (ix *index[V]) slot(pattern string) *V {
	base, isPrefix := strings.CutSuffix(pattern, "/**")
	if isPrefix {
		return ix.below.slot(base)
	}
	if ix.exact == nil {
		ix.exact = map[string]*V{}
	}
	if ix.exact[pattern] == nil {
		ix.exact[pattern] = new(V)
	}
	return ix.exact[pattern]
}

func (n *node[V]) slot(base string) *V {
	for segment := range strings.SplitSeq(base, "/") {
		child := n.children[segment]
		if child == nil {
			child = &node[V]{}
			if n.children == nil {
				n.children = map[string]*node[V]{}
			}
			n.children[segment] = child
		}
		n = child
	}
	if n.value == nil {
		n.value = new(V)
	}
	return n.value
}

// match starts a walk over the values of all patterns that match key.
func (ix *index[V]) match(key string) matches[V] {
	return matches[V]{exact: ix.exact[key], node: &ix.below, rest: key}
}

// matches is a walk over values: for m := ix.match(k); m.next(); { m.value }.
type matches[V any] struct {
	value *V

	exact *V
	node  *node[V]
	rest  string // of the key, below node
}

func (m *matches[V]) next() bool {
	if m.exact != nil {
		m.value, m.exact = m.exact, nil
		return true
	}
	for m.node != nil {
		end := strings.IndexByte(m.rest, '/')
		if end < 0 { // "/**" needs something below it
			return false
		}
		m.node, m.rest = m.node.children[m.rest[:end]], m.rest[end+1:]
		if m.node != nil && m.node.value != nil {
			m.value = m.node.value
			return true
		}
	}
	return false
}
