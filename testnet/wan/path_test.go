package wan

import "testing"

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{
		"100mbit": 100e6, "1gbit": 1e9, "2.5Mbit": 2.5e6, "10kbit": 10e3, "64000bit": 64e3,
		"": 0, "bit": 0, "100mb": 0, "100": 0, "9kbit": 0, "-1mbit": 0, "0mbit": 0, "1e9bit": 0, "99999999tbit": 0, "nanbit": 0, "infbit": 0,
	} {
		t.Run(text, func(t *testing.T) {
			got, err := ParseRate(text)
			if got != want || (err == nil) != (want > 0) {
				t.Fatalf("got %d, %v, want %d", got, err, want)
			}
			if want == 0 {
				return
			}
			if again, err := ParseRate(FormatRate(got)); again != want {
				t.Errorf("written as %s, which is %d, %v", FormatRate(got), again, err)
			}
		})
	}
}
