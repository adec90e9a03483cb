package up

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestPairsFitATerminal has the longest names and numbers there are.
func TestPairsFitATerminal(t *testing.T) {
	for name, one := range map[string]traffic{
		"packets":     {Bytes: 999_999_999_999, Packets: math.MaxInt64 / 2, Lost: 999_999},
		"connections": {Bytes: 999_999_999_999, Dialled: 99_999},
	} {
		t.Run(name, func(t *testing.T) {
			var moved []traffic
			for i := range MaxOffices {
				for j := range MaxOffices {
					if one.From, one.To = office16(i), office16(j); i != j {
						moved = append(moved, one)
					}
				}
			}
			var out strings.Builder
			if err := (&room{out: &out}).printPairs(moved); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(lines) != 1+maxPairs+1 || lines[len(lines)-1] != "1185 more" {
				t.Errorf("%d lines, the last one %q", len(lines), lines[len(lines)-1])
			}
			for _, line := range lines {
				if n := utf8.RuneCountInString(line); n > 80 {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
	}
}

func office16(i int) string { return fmt.Sprintf("an-office-far-%02d", i) }

func TestPairs(t *testing.T) {
	got := pairs([]traffic{{From: "a", To: "b", Bytes: 1}, {From: "b", To: "a", Bytes: 2}, {From: "c", To: "a", Bytes: 9}, {From: "b", To: "c", Bytes: 3}})
	want := "[{{c a 9 0 0 0} {  0 0 0 0}} {{a b 1 0 0 0} {b a 2 0 0 0}} {{b c 3 0 0 0} {  0 0 0 0}}]"
	if text := fmt.Sprint(got); text != want {
		t.Errorf("got %s, want %s", text, want)
	}
}

func TestFill(t *testing.T) {
	line := Line{Rate: 1}
	got := Fill([]Office{{Name: "office1"}, {Name: "x"}}, 4, line)
	if text := fmt.Sprint(got); len(got) != 4 || got[2] != (Office{"office2", line}) || got[3].Name != "office3" {
		t.Errorf("got %s", text)
	}
	if got := Fill([]Office{{Name: "x"}, {Name: "y"}}, 1, line); len(got) != 2 {
		t.Errorf("those described became %v", got)
	}
}
