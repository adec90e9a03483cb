package sim

import (
	"encoding/json"
	"fmt"
	"os"
)

// Results are what a run of all measurements found. They are kept as JSON, from
// which tables and plots are drawn.
type Results struct {
	Date string // of the run
	Go   string
	Seed uint64

	Questions  []Questions // by members
	Crowds     []Crowd     // by members
	Rushes     []Crowd     // likewise, within less time than the fetch takes
	States     []State     // by members and releases
	Rosters    []RosterSize
	ByMembers  []Repaired // repair, by members
	ByReleases []Repaired // by releases
	ByLoss     []Repaired // by the part of members lost
	ByRestarts []Repaired // by how often others are restarted meanwhile
}

// Save writes results to a file.
func (r *Results) Save(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// Load reads what Save wrote.
func Load(file string) (*Results, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(Results)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("results of a simulation in %s: %w", file, err)
	}
	return r, nil
}
