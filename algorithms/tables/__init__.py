"""Tables: typed columns, linear models, trees and a network, all exported with their columns' preparation inside."""
