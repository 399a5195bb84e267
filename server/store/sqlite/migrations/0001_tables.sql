-- Times are microseconds since 1970. Text that is compared is compared byte by
-- byte (the default collation). Documents (settings, spec, body, …) are JSON.

CREATE TABLE icp_schema (
	version BIGINT PRIMARY KEY
);

CREATE TABLE tenants (
	id           TEXT PRIMARY KEY,
	trust_domain TEXT NOT NULL,
	settings     TEXT NOT NULL,
	created_at   BIGINT NOT NULL
);

-- The last number given out of each kind. A mutation takes the row last and
-- holds it until commit. '@platform' numbers the events that belong to no tenant.
CREATE TABLE counters (
	tenant   TEXT PRIMARY KEY,
	epoch    TEXT NOT NULL,
	revision BIGINT NOT NULL,
	seq      BIGINT NOT NULL
);
INSERT INTO counters (tenant, epoch, revision, seq) VALUES ('@platform', '', 0, 0);

-- Whose a trust domain is; a tenant's primary one is here too.
CREATE TABLE trust_domains (
	name   TEXT PRIMARY KEY,
	tenant TEXT NOT NULL
);

CREATE TABLE changes (
	tenant   TEXT NOT NULL,
	revision BIGINT NOT NULL,
	ord      BIGINT NOT NULL, -- within the revision
	kind     TEXT NOT NULL,
	object   TEXT NOT NULL,
	parent   TEXT NOT NULL,
	deleted  BOOLEAN NOT NULL,
	PRIMARY KEY (tenant, revision, ord)
) WITHOUT ROWID;

CREATE TABLE entries (
	tenant      TEXT NOT NULL,
	id          TEXT NOT NULL,
	spiffe_id   TEXT NOT NULL,
	parent_id   TEXT NOT NULL,
	fingerprint BLOB NOT NULL, -- of SPIFFE ID, parent and selectors
	spec        TEXT NOT NULL,
	revision    BIGINT NOT NULL,
	created_at  BIGINT NOT NULL,
	PRIMARY KEY (tenant, id),
	UNIQUE (tenant, fingerprint)
);
CREATE INDEX entries_by_parent ON entries (tenant, parent_id, created_at, id);
CREATE INDEX entries_by_spiffe_id ON entries (tenant, spiffe_id);
CREATE INDEX entries_by_age ON entries (tenant, created_at, id);

CREATE TABLE entry_selectors (
	tenant   TEXT NOT NULL,
	entry    TEXT NOT NULL,
	selector TEXT NOT NULL,
	PRIMARY KEY (tenant, entry, selector),
	FOREIGN KEY (tenant, entry) REFERENCES entries (tenant, id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX entries_by_selector ON entry_selectors (tenant, selector);

CREATE TABLE policies (
	tenant TEXT NOT NULL,
	name   TEXT NOT NULL,
	body   TEXT NOT NULL,
	PRIMARY KEY (tenant, name)
);

CREATE TABLE audit_events (
	tenant     TEXT NOT NULL,
	seq        BIGINT NOT NULL,
	time       BIGINT NOT NULL,
	actor      TEXT NOT NULL,
	action     TEXT NOT NULL,
	object     TEXT NOT NULL,
	outcome    TEXT NOT NULL,
	reason     TEXT NOT NULL,
	request_id TEXT NOT NULL,
	before     TEXT NOT NULL,
	after      TEXT NOT NULL,
	PRIMARY KEY (tenant, seq)
) WITHOUT ROWID;

CREATE TABLE join_tokens (
	tenant     TEXT NOT NULL,
	id         TEXT NOT NULL,
	hash       BLOB NOT NULL UNIQUE,
	node_name  TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (tenant, id)
);

CREATE TABLE nodes (
	tenant     TEXT NOT NULL,
	id         TEXT NOT NULL,
	method     TEXT NOT NULL,
	spki       BLOB NOT NULL,
	serial     TEXT NOT NULL,
	prev_serial TEXT NOT NULL DEFAULT '', -- before the last renewal, until the new one is seen in use
	selectors  TEXT NOT NULL,
	banned     BOOLEAN NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT NOT NULL,
	last_seen  BIGINT NOT NULL,
	PRIMARY KEY (tenant, id)
);

CREATE TABLE authorities (
	tenant       TEXT NOT NULL,
	id           TEXT NOT NULL,
	trust_domain TEXT NOT NULL REFERENCES trust_domains (name),
	purpose      TEXT NOT NULL,
	certificate  BLOB,
	spki         BLOB NOT NULL,
	spki_sha256  BLOB NOT NULL UNIQUE, -- over all tenants
	wrapped_key  BLOB,
	issuer       TEXT NOT NULL,
	created_at   BIGINT NOT NULL,
	expires_at   BIGINT NOT NULL,
	PRIMARY KEY (tenant, id)
);

CREATE TABLE issuances (
	tenant         TEXT NOT NULL,
	serial         TEXT NOT NULL,
	node           TEXT NOT NULL,
	state          TEXT NOT NULL CHECK (state IN ('intent', 'issued', 'abandoned')),
	kind           TEXT NOT NULL,
	request_id     TEXT NOT NULL,
	entry_id       TEXT NOT NULL,
	entry_revision BIGINT NOT NULL,
	spiffe_id      TEXT NOT NULL,
	evidence       TEXT NOT NULL,
	spki           TEXT NOT NULL, -- hex
	not_before     BIGINT NOT NULL,
	expires_at     BIGINT NOT NULL,
	PRIMARY KEY (tenant, serial)
);
CREATE UNIQUE INDEX issuances_by_request ON issuances (tenant, node, request_id) WHERE request_id <> '';
CREATE INDEX issuances_by_entry ON issuances (tenant, entry_id, expires_at);
CREATE INDEX issuances_by_node ON issuances (tenant, node, expires_at);
CREATE INDEX issuances_by_end ON issuances (expires_at);

CREATE TABLE revocations (
	tenant     TEXT NOT NULL,
	serial     TEXT NOT NULL,
	kind       TEXT NOT NULL,
	spiffe_id  TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	PRIMARY KEY (tenant, serial)
);
CREATE INDEX revocations_by_end ON revocations (expires_at);

CREATE TABLE api_tokens (
	tenant     TEXT NOT NULL, -- '@platform' for platform administrators
	id         TEXT NOT NULL,
	role       TEXT NOT NULL,
	name       TEXT NOT NULL,
	hash       BLOB NOT NULL UNIQUE,
	expires_at BIGINT NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (tenant, id)
);
