package svid

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/authsec-ai/icp/identity"
)

// Tags of the GeneralNames that we read (RFC 5280 section 4.2.1.6). All are
// primitive: the constructed spelling of one is not a name of that kind.
const (
	tagEmail = casn1.Tag(1 | 0x80)
	tagDNS   = casn1.Tag(2 | 0x80)
	tagURI   = casn1.Tag(6 | 0x80)
)

// readURIs gives the bytes of each URI in a subject alternative name extension.
// Names of other types are passed over: they never are an identity.
func readURIs(san cryptobyte.String) (uris []cryptobyte.String, err error) {
	var names cryptobyte.String
	if !san.ReadASN1(&names, casn1.SEQUENCE) || !san.Empty() || names.Empty() {
		return nil, refuse(BadSAN, "the subject alternative name is malformed")
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag casn1.Tag
		if !names.ReadAnyASN1(&name, &tag) || !isGeneralName(tag) {
			return nil, refuse(BadSAN, "the subject alternative name is malformed")
		}
		if name.Empty() {
			return nil, refuse(BadSAN, "the subject alternative name has an empty name")
		}
		if tag == tagURI {
			uris = append(uris, name)
		}
	}
	return uris, nil
}

// isGeneralName reports whether tag is one of the nine that GeneralName has, in
// its right form: otherName, x400Address, directoryName and ediPartyName are
// constructed, the others primitive.
func isGeneralName(tag casn1.Tag) bool {
	switch tag {
	case 0xa0, tagEmail, tagDNS, 0xa3, 0xa4, 0xa5, tagURI, 0x87, 0x88:
		return true
	}
	return false
}

// leafID reads the one URI of the certificate and parses it strictly.
func leafID(c *rawCert) (spiffeid.ID, error) {
	uris, err := sanURIs(c)
	switch {
	case err != nil:
		return spiffeid.ID{}, err
	case len(uris) == 0:
		return spiffeid.ID{}, refuse(NoURI, "the certificate has no URI in its subject alternative name")
	case len(uris) > 1:
		return spiffeid.ID{}, refuse(ManyURIs, "the certificate has %d URIs; an SVID has one", len(uris))
	}
	return parseID(uris[0])
}

// sanURIs gives the URIs of the certificate; none if it has no subject
// alternative name.
func sanURIs(c *rawCert) ([]cryptobyte.String, error) {
	san := c.find(oidSAN)
	if san == nil {
		return nil, nil
	}
	return readURIs(san.value)
}

// parseID parses a SPIFFE ID and turns its fault into a reason.
func parseID[T ~string | ~[]byte](text T) (spiffeid.ID, error) {
	if len(text) > identity.MaxIDBytes { // before it is copied
		return spiffeid.ID{}, refuse(idReason(identity.FaultTooLong), "the SPIFFE ID is %d bytes long", len(text))
	}
	id, err := identity.ParseID(string(text))
	if err != nil {
		return spiffeid.ID{}, refuse(idReason(identity.FaultOf(err)), "%s", identity.MessageOf(err))
	}
	return id, nil
}
