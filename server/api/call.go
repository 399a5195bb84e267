package api

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/authn"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/store"
)

// call is one request to a route.
type call struct {
	api       *API
	route     route
	ec        echo.Context
	ctx       context.Context
	requestID string
	query     url.Values
	principal authn.Principal // zero on public routes
}

// chain gives the certificates of the TLS connection. They come from there and
// from nowhere else.
func (c *call) chain() []*x509.Certificate {
	if tls := c.ec.Request().TLS; tls != nil {
		return tls.PeerCertificates
	}
	return nil
}

// by is the caller as the registry records it.
func (c *call) by() registry.Caller {
	return registry.Caller{Actor: c.principal.Actor, RequestID: c.requestID}
}

// bind decodes the body into the struct that into points to.
func (c *call) bind(into any) error {
	raw, err := c.read()
	if err != nil {
		return err
	}
	return c.route.body.decode(raw, into)
}

// read gives the body as it came.
func (c *call) read() ([]byte, error) {
	b := c.route.body
	if err := b.checkContentType(c.ec.Request().Header); err != nil {
		return nil, err
	}
	return b.read(c.ec.Request())
}

// tenant gives the tenant that this call is about: the caller's own. A
// PlatformAdmin, who has none, names it, in the body (inBody) or the query.
// Naming another than one's own is answered as if that did not exist.
func (c *call) tenant(inBody string) (string, error) {
	named, err := c.namedTenant(inBody)
	if err != nil {
		return "", err
	}
	if c.principal.Role == store.PlatformAdmin {
		if named == "" {
			return "", identity.Errorf(identity.Invalid, "name the tenant in tenant_id; a %s belongs to none", store.PlatformAdmin)
		}
		_, err := c.api.Registry.Tenant(c.ctx, named)
		return named, err
	}
	if c.principal.Tenant == "" {
		return "", identity.Errorf(identity.Denied, "caller belongs to no tenant")
	}
	if named != "" && named != c.principal.Tenant {
		err := identity.Errorf(identity.NotFound, "no such tenant")
		c.api.recordDenial(c, err)
		return "", err
	}
	return c.principal.Tenant, nil
}

func (c *call) namedTenant(inBody string) (string, error) {
	inQuery := c.query.Get("tenant_id")
	if inBody != "" && inQuery != "" && inBody != inQuery {
		return "", identity.Errorf(identity.Invalid, "tenant_id in the body and in the query differ")
	}
	if inBody != "" {
		return inBody, nil
	}
	return inQuery, nil
}

// tenantOrPlatform is tenant, except that a PlatformAdmin who names none means
// what belongs to the platform itself.
func (c *call) tenantOrPlatform(inBody string) (string, error) {
	if c.principal.Role == store.PlatformAdmin && inBody == "" && c.query.Get("tenant_id") == "" {
		return "", nil
	}
	return c.tenant(inBody)
}

// param gives a parameter of the path.
func (c *call) param(name string) string { return c.ec.Param(name) }

// object names what the call is about, for an audit event.
func (c *call) object() string { return identity.Clip(strings.Join(c.ec.ParamValues(), "/")) }

// number reads a query parameter that is a whole number from 0 to limit; 0 if absent.
func (c *call) number(name string, limit int64) (int64, error) {
	text := c.query.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > limit {
		return 0, identity.Errorf(identity.Invalid, "query parameter %s=%q is not a whole number from 0 to %d", name, identity.Clip(text), limit)
	}
	return n, nil
}

// revision reads If-Match: 0 if absent, else the revision in an ETag of ours.
func (c *call) revision() (int64, error) {
	text := c.ec.Request().Header.Get("If-Match")
	if text == "" || text == "*" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.Trim(text, `"`), 10, 64)
	if err != nil || n <= 0 {
		return 0, identity.Errorf(identity.Invalid, "If-Match %q is not a revision; send back the ETag of the entry", identity.Clip(text))
	}
	return n, nil
}

// json answers with v.
func (c *call) json(status int, v any) error {
	c.ec.Response().Header().Set("Cache-Control", "no-store")
	return c.ec.JSON(status, v)
}

// entry answers with e and its revision as ETag.
func (c *call) entry(status int, e identity.Entry) error {
	c.ec.Response().Header().Set("ETag", `"`+strconv.FormatInt(e.Revision, 10)+`"`)
	return c.json(status, e)
}

// done answers that there is nothing more to say.
func (c *call) done() error { return c.ec.NoContent(http.StatusNoContent) }

// list is the answer of every listing.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // give it as parameter page (audit: before) to go on
}

func listOf[T any](items []T, next string) list[T] {
	if items == nil {
		items = []T{}
	}
	return list[T]{Items: items, Next: next}
}
