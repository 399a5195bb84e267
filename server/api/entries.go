package api

import (
	"net/http"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// entryBody is an entry as an administrator writes it: its Spec. The two IDs
// are read as text, to be parsed by our rules and not the library's.
type entryBody struct {
	TenantID string `json:"tenant_id"`
	SPIFFEID string `json:"spiffe_id"`
	ParentID string `json:"parent_id"`
	identity.Spec
}

// entryBodyOf is the body that would write the entry's Spec as it is.
func entryBodyOf(e identity.Entry) entryBody {
	return entryBody{SPIFFEID: e.SPIFFEID.String(), ParentID: e.ParentID.String(), Spec: e.Spec}
}

func (b entryBody) spec() (identity.Spec, error) {
	spec := b.Spec
	var err error
	if spec.SPIFFEID, err = parseID(b.SPIFFEID); err != nil {
		return identity.Spec{}, err
	}
	spec.ParentID, err = parseID(b.ParentID)
	return spec, err
}

// parseID leaves an absent ID to the registry, which knows whether it may be.
func parseID(text string) (spiffeid.ID, error) {
	if text == "" {
		return spiffeid.ID{}, nil
	}
	return identity.ParseID(text)
}

func (a *API) createEntry(c *call) error {
	var in entryBody
	if err := c.bind(&in); err != nil {
		return err
	}
	tenant, err := c.tenant(in.TenantID)
	if err != nil {
		return err
	}
	spec, err := in.spec()
	if err != nil {
		return err
	}
	e, err := a.Registry.CreateEntry(c.ctx, c.by(), tenant, spec)
	if err != nil {
		return err
	}
	c.ec.Response().Header().Set("Location", "/api/v1/workloads/"+e.ID)
	return c.entry(http.StatusCreated, e)
}

func (a *API) listEntries(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	filter, err := entryFilter(c)
	if err != nil {
		return err
	}
	entries, next, err := a.Registry.Entries(c.ctx, tenant, filter)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, listOf(entries, next))
}

func entryFilter(c *call) (store.EntryFilter, error) {
	limit, err := c.number("limit", 1000)
	if err != nil {
		return store.EntryFilter{}, err
	}
	f := store.EntryFilter{
		SPIFFEID: c.query.Get("spiffe_id"), ParentID: c.query.Get("parent_id"),
		Search: c.query.Get("search"), Limit: int(limit), After: c.query.Get("page"),
	}
	for _, id := range []string{f.SPIFFEID, f.ParentID} {
		if _, err := parseID(id); err != nil {
			return store.EntryFilter{}, err
		}
	}
	if text := c.query.Get("selector"); text != "" {
		selector, err := identity.ParseSelector(text)
		if err != nil {
			return store.EntryFilter{}, err
		}
		f.Selector = selector.String()
	}
	return f, nil
}

func (a *API) getEntry(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	e, err := a.Registry.Entry(c.ctx, tenant, c.param("id"))
	if err != nil {
		return err
	}
	return c.entry(http.StatusOK, e)
}

// replaceEntry sets the whole Spec; what the body leaves out is unset.
func (a *API) replaceEntry(c *call) error {
	var in entryBody
	if err := c.bind(&in); err != nil {
		return err
	}
	tenant, err := c.tenant(in.TenantID)
	if err != nil {
		return err
	}
	ifRevision, err := c.revision()
	if err != nil {
		return err
	}
	return a.updateEntry(c, tenant, ifRevision, in)
}

// patchEntry sets the fields that the body has, and unsets those that are null
// there. It is based on the revision that it reads, or that If-Match names, and
// never on a mixture.
func (a *API) patchEntry(c *call) error {
	raw, err := c.read()
	if err != nil {
		return err
	}
	var first entryBody // for its tenant_id
	if err := c.route.body.decode(raw, &first); err != nil {
		return err
	}
	tenant, err := c.tenant(first.TenantID)
	if err != nil {
		return err
	}
	ifRevision, err := c.revision()
	if err != nil {
		return err
	}
	old, err := a.Registry.Entry(c.ctx, tenant, c.param("id"))
	if err != nil {
		return err
	}
	var in entryBody
	if err := c.route.body.decodePatch(entryBodyOf(old), raw, &in); err != nil {
		return err
	}
	if ifRevision == 0 {
		ifRevision = old.Revision
	}
	return a.updateEntry(c, tenant, ifRevision, in)
}

func (a *API) updateEntry(c *call, tenant string, ifRevision int64, in entryBody) error {
	spec, err := in.spec()
	if err != nil {
		return err
	}
	e, err := a.Registry.UpdateEntry(c.ctx, c.by(), tenant, c.param("id"), ifRevision, spec)
	if err != nil {
		return err
	}
	return c.entry(http.StatusOK, e)
}

func (a *API) deleteEntry(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	if err := a.Registry.DeleteEntry(c.ctx, c.by(), tenant, c.param("id")); err != nil {
		return err
	}
	return c.done()
}
