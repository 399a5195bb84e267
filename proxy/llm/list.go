package llm

import (
	"encoding/json"
	"fmt"
)

// FilterList takes from a model list, as GET /v1/models answers it, every model
// for which allowed is false.
func FilterList(raw []byte, allowed func(model string) bool) ([]byte, error) {
	var list map[string]json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read the list of models: %w", err)
	}
	var items []json.RawMessage
	if err := json.Unmarshal(list["data"], &items); err != nil {
		return nil, fmt.Errorf("read the list of models: %w", err)
	}
	kept := []json.RawMessage{}
	for _, item := range items {
		var model struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(item, &model); err != nil {
			return nil, fmt.Errorf("read a model of the list: %w", err)
		}
		if allowed(model.ID) {
			kept = append(kept, item)
		}
	}
	return remake(list, kept)
}

// remake writes the list with the kept items, and of what else it says only what
// names no models: some servers list them once more under another key, and the
// cursors of Anthropic's form are names.
func remake(list map[string]json.RawMessage, kept []json.RawMessage) ([]byte, error) {
	data, err := json.Marshal(kept)
	if err != nil {
		return nil, fmt.Errorf("write the list of models: %w", err)
	}
	made := map[string]json.RawMessage{"data": data}
	for _, key := range []string{"object", "has_more"} {
		if value, ok := list[key]; ok {
			made[key] = value
		}
	}
	return json.Marshal(made)
}
